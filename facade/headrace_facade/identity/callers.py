"""Who asks, and for which tenant. 401: nobody knows who; 403: known, and not allowed; 503: it cannot be asked now."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from starlette.datastructures import Headers

from headrace_crds.api_keys import NAME, secret_name
from headrace_facade.caller import Caller
from headrace_facade.errors import FieldProblem, Forbidden, Invalid, Unauthenticated
from headrace_facade.identity.credential import Credential, credential_of
from headrace_facade.identity.kept import Kept
from headrace_facade.identity.keys import KEY_KEPT_S, ApiKeys, KeyFacts
from headrace_facade.identity.tokens import REFUSAL_KEPT_S, RIGHT_KEPT_S, TOKEN_KEPT_S, ClusterTokens, User
from headrace_facade.own_account import OwnAccount

KEY_REFUSED: Final = "this API key is not accepted"
REFUSED: Final = (
    "the API server does not accept this token: it has expired, is of another cluster or for another audience"
)


class Callers:
    """Every answer is of the API server, or a few seconds old: `tokens` and `keys` say how old at most."""

    def __init__(
        self,
        tokens: ClusterTokens,
        keys: ApiKeys,
        default_namespace: str,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._tokens = tokens
        self._keys = keys
        self._default_namespace = default_namespace
        self._today = today
        self._users: Kept[User] = Kept(TOKEN_KEPT_S, REFUSAL_KEPT_S, clock=clock)
        self._rights: Kept[bool] = Kept(RIGHT_KEPT_S, REFUSAL_KEPT_S, clock=clock)
        self._facts: Kept[KeyFacts] = Kept(KEY_KEPT_S, KEY_KEPT_S, clock=clock)

    @classmethod
    def of(cls, account: OwnAccount, keys_namespace: str, default_namespace: str) -> "Callers":
        return cls(ClusterTokens(account), ApiKeys(account, keys_namespace), default_namespace)

    async def authenticate(self, headers: Headers, *, namespace: str | None = None) -> Caller:
        """The caller, who may make calls in its namespace, or in the one that the request names.

        Raises Unauthenticated, Forbidden, Unavailable, and Invalid for what cannot name a namespace.
        """
        credential = credential_of(headers)
        if namespace is not None and not NAME.fullmatch(namespace):
            raise Invalid.of([FieldProblem("namespace", "cannot be a namespace's name")])
        if credential.is_key:
            return await self._by_key(credential, namespace)
        return await self._by_token(credential, namespace)

    async def _by_key(self, credential: Credential, namespace: str | None) -> Caller:
        digest = credential.digest
        facts = await self._facts.get(digest, lambda: self._keys.facts(credential.text, digest))
        # One sentence for all: what is wrong with a key is for whoever may read its Secret.
        if facts is None or (facts.expires is not None and facts.expires <= self._today()):
            raise Unauthenticated(KEY_REFUSED)
        if namespace not in (None, facts.namespace):
            raise Forbidden(f"this API key is of namespace {facts.namespace!r}: a token of the cluster may name others")
        return Caller(namespace=facts.namespace, name=f"key:{secret_name(facts.id)}", models=facts.models)

    async def _by_token(self, credential: Credential, namespace: str | None) -> Caller:
        digest = credential.digest
        user = await self._users.get(digest, lambda: self._tokens.user(credential.text), lambda found: found.lasts_s)
        if user is None:
            raise Unauthenticated(REFUSED)
        tenant = namespace or user.namespace or self._default_namespace
        allowed = await self._rights.get(
            digest + tenant.encode(), lambda: self._tokens.may_make_tasks(user, tenant), lambda _: user.lasts_s
        )
        if allowed is None:
            named = "" if namespace is not None else f", which is {_why(user)}"
            raise Forbidden(
                f"{user.name!r} may not create llmtasks.headrace.dev in namespace {tenant!r}{named}: have an admin of "
                "the namespace grant it, as the role edit does"
            )
        return Caller(tenant, user.name, token=credential.text if user.at_the_api_server else None)


def _why(user: User) -> str:
    return "the ServiceAccount's own" if user.namespace is not None else "the facade's default"
