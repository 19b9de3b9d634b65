"""What Litestar itself refuses, in the same form as everything else: no such path, a bad `Host`, and what broke outside a route."""

import logging
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from app.core.errors import DomainError, InternalError, InvalidRequest, MethodNotAllowed, NotFound
from app.http.answers import complete, is_secure, problem
from app.http.headers import request_id_of

log = logging.getLogger(__name__)


def refuse(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's exception handler for everything."""
    headers = dict(request.scope["headers"])
    request_id = request_id_of(headers.get(b"x-request-id"))
    refusal = _refusal(error)
    if isinstance(refusal, InternalError):
        log.error("a request failed outside its route", exc_info=error, extra={"request_id": request_id, "path": request.scope["path"]})
    result = problem(refusal, instance=request.scope["path"], request_id=request_id)
    secure = is_secure(request.scope["scheme"], headers.get(b"x-forwarded-proto"))
    pairs = complete(result, request_id=request_id, secure=secure)
    texts = {name.decode(): value.decode("latin-1") for name, value in pairs if name not in (b"content-type", b"content-length")}
    return Response(result.body, status_code=result.status, media_type="application/problem+json", headers=texts)


def _refusal(error: Exception) -> DomainError:
    if isinstance(error, DomainError):
        return error
    if isinstance(error, NotFoundException):
        return NotFound("There is no such path.")
    if isinstance(error, MethodNotAllowedException):
        return MethodNotAllowed()
    if isinstance(error, HTTPException) and error.status_code < 500:
        return InvalidRequest(f"{error.detail}.")
    return InternalError()
