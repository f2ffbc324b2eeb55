"""Tokens of the cluster: whose a token is, and whether its owner may make tasks in a namespace."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace_crds.base import GROUP
from headrace_facade.own_account import OwnAccount, claims

AUDIENCE: Final = "headrace.dev"
"""Of tokens that are good for Headrace and for nothing else: `kubectl create token NAME --audience headrace.dev`."""
TOKEN_KEPT_S: Final = 60.0
RIGHT_KEPT_S: Final = 30.0
REFUSAL_KEPT_S: Final = 5.0
_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_ACCESS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_ACCOUNT: Final = "system:serviceaccount:"


@dataclass(frozen=True)
class User:
    """As the API server knows the token's owner."""

    name: str
    uid: str
    groups: tuple[str, ...]
    extra: Mapping[str, list[str]]
    at_the_api_server: bool
    """The token is the API server's too, and not Headrace's alone."""
    lasts_s: float
    """Until it ends, where the token says so."""

    @property
    def namespace(self) -> str | None:
        """A ServiceAccount's; None of anybody else."""
        return self.name.removeprefix(_ACCOUNT).partition(":")[0] if self.name.startswith(_ACCOUNT) else None


class ClusterTokens:
    """Asks each time; `Kept` remembers. Raises Unavailable."""

    def __init__(self, account: OwnAccount, wall_clock: Callable[[], float] = time.time) -> None:
        self._account = account
        self._wall_clock = wall_clock

    async def user(self, token: str) -> User | None:
        """Whose it is; None where the API server does not accept it for one of our audiences."""
        own = self._account.audiences()
        wanted = [AUDIENCE, *own]
        spec = {"token": token, "audiences": wanted}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        status = (await self._account.review(_REVIEWS, body)).get("status") or {}
        found = status.get("user") or {}
        # A server that knows nothing of audiences answers none: then the token is the API server's own.
        audiences = set(status.get("audiences") or own)
        if status.get("authenticated") is not True or not found.get("username") or not audiences & set(wanted):
            return None
        ends = claims(token).get("exp")
        return User(
            name=str(found["username"]),
            uid=str(found.get("uid") or ""),
            groups=tuple(found.get("groups") or ()),
            extra=found.get("extra") or {},
            at_the_api_server=bool(audiences & set(own)),
            lasts_s=ends - self._wall_clock() if isinstance(ends, int | float) else TOKEN_KEPT_S,
        )

    async def may_make_tasks(self, user: User, namespace: str) -> bool | None:
        """True, or None: RBAC, or whatever else authorizes there, says no."""
        spec: dict[str, Any] = {
            "user": user.name,
            "groups": list(user.groups),
            "resourceAttributes": {"namespace": namespace, "verb": "create", "group": GROUP, "resource": "llmtasks"},
        }
        # The API server refuses what is empty.
        spec |= {name: value for name, value in (("uid", user.uid), ("extra", dict(user.extra))) if value}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        status = (await self._account.review(_ACCESS, body)).get("status") or {}
        return True if status.get("allowed") is True and not status.get("denied") else None
