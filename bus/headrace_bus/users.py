"""The runners' Redis users: made per model, because whoever may read Secrets beside a model can read its password."""

import hashlib

from headrace_bus.acl import acl_rules, report_rules, user_name
from headrace_bus.connection import Connection
from headrace_bus.keys import ModelKey


async def grant(
    connection: Connection, model: ModelKey, user: str, password: str, *, reports_alone: bool = False
) -> None:
    """Makes or resets the user; connections made with another password end. Raises ValueError."""
    await connection.load_scripts()
    digest = hashlib.sha256(password.encode()).hexdigest()
    if await _passwords(connection, user_name(user)) not in ([], [digest.encode()]):
        # SETUSER alone leaves connections that have authenticated.
        await revoke(connection, user)
    rights = report_rules(model) if reports_alone else acl_rules(model)
    rules = ("reset", "on", f"#{digest}", *rights)
    await connection.command("ACL", "SETUSER", user_name(user), *rules)


async def revoke(connection: Connection, user: str) -> None:
    """Deletes the user, which ends its connections, blocked ones included. Raises ValueError."""
    await connection.command("ACL", "DELUSER", user_name(user))


async def _passwords(connection: Connection, user: str) -> list[bytes]:
    flat = await connection.command("ACL", "GETUSER", user)
    found: list[bytes] = dict(zip(flat[::2], flat[1::2], strict=True))[b"passwords"] if flat else []
    return found
