"""Whether money may move: asked at confirm, before a payment row exists. The rules come later; until then everything is allowed."""
