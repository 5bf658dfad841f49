# SPDX-License-Identifier: Apache-2.0
"""Who may act on the pages: a token, a limit on wrong ones, and only from our own forms."""

import hashlib
import hmac
import threading
from collections import OrderedDict, deque
from urllib.parse import parse_qsl, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ci.clock import Clock

FORM_LIMIT_BYTES = 8192
FIELD_LIMIT = 16
WRONG_PER_CLIENT = 5
WRONG_IN_ALL = 60
PER_S = 60.0
_CLIENTS_KEPT = 1000


class Operator:
    """Knows the operator's token by its digest alone. Thread-safe.

    Args:
        token: From the configuration; empty where nobody may act here.
        service_url: Where people find this site: forms may come from there.
        clock: Whose seconds count.
    """

    def __init__(self, token: str, service_url: str, clock: Clock) -> None:
        self.present = bool(token)
        self._digest = hashlib.sha256(token.encode()).digest()
        self._own = urlsplit(service_url).netloc.lower()
        self._clock = clock
        self._lock = threading.Lock()
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._all_wrong: deque[float] = deque()

    def admit(self, request: Request, token: str) -> None:
        """Let a request pass that comes from our own form and brings the token.

        Raises:
            HTTPException: 404 where nobody may act, 403 for a wrong token or another site's
                form, 429 after too many wrong ones.
        """
        if not self.present:
            raise HTTPException(404, "This site only shows; no operator token is configured.")
        if not self._same_origin(request):
            raise HTTPException(403, "Only this site's own form may ask for that.")
        client = request.client.host if request.client else ""
        given = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            if self._too_many(client):
                raise HTTPException(
                    429,
                    "Too many wrong tokens came in the last minute.",
                    headers={"Retry-After": str(int(PER_S))},
                )
            if hmac.compare_digest(given, self._digest):
                return
            self._remember(client)
        raise HTTPException(403, "That is not the operator's token.")

    def _same_origin(self, request: Request) -> bool:
        """What a browser says of where the form was; a request that says nothing is refused."""
        fetched = request.headers.get("sec-fetch-site")
        if fetched is not None and fetched != "same-origin":
            return False
        origin = request.headers.get("origin")
        if origin is None:
            return fetched is not None
        try:
            netloc = urlsplit(origin).netloc.lower()
        except ValueError:
            return False
        return netloc != "" and netloc in {self._own, request.headers.get("host", "").lower()}

    def _too_many(self, client: str) -> bool:
        start = self._clock.monotonic_s() - PER_S
        mine = self._wrong.get(client, deque())
        for times in (mine, self._all_wrong):
            while times and times[0] < start:
                times.popleft()
        return len(mine) >= WRONG_PER_CLIENT or len(self._all_wrong) >= WRONG_IN_ALL

    def _remember(self, client: str) -> None:
        now_s = self._clock.monotonic_s()
        self._wrong.setdefault(client, deque()).append(now_s)
        self._wrong.move_to_end(client)
        self._all_wrong.append(now_s)
        while len(self._wrong) > _CLIENTS_KEPT:
            self._wrong.popitem(last=False)


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a small form; the last one counts where a name comes twice.

    Raises:
        HTTPException: 413 or 415, it is not such a form; 400, it cannot be read.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "Send the form of the page.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > FORM_LIMIT_BYTES:
            raise HTTPException(413, "That is more than the form of the page can hold.")
    try:
        fields = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=FIELD_LIMIT,
        )
    except ValueError as error:
        raise HTTPException(400, "The form cannot be read.") from error
    return dict(fields)
