"""What people ask of the list of members: tokens that let somebody in or read, and their ends."""

from __future__ import annotations

from meshtrain.errors import MeshtrainError, UserError
from meshtrain.wire import messages as msg
from meshtrain_daemon.master.membership import Membership

MemberRequest = msg.IssueToken | msg.Revoke | msg.IssueReader | msg.RevokeReader


async def change_members(
    membership: Membership | None,
    message: MemberRequest,
    *,
    asker: str,
    control_port: int,
    enrol_port: int,
) -> msg.Done:
    """Members and tokens are kept in files of their own; what is answered is on the disk.

    Args:
        asker: the person who asks.
        control_port: where new members find the master.
        enrol_port: where they join.
    """
    try:
        if membership is None:
            raise UserError(
                "this master lets in everybody on its host and nobody else: it has no "
                "members. Start it with --secure to have some"
            )
        done: tuple[str, ...]
        match message:
            case msg.IssueReader():
                word = await membership.beside(
                    membership.issue_reader, message.name, message.ttl_s, issuer=asker
                )
                done = (word,)
            case msg.RevokeReader():
                await membership.beside(membership.readers.revoke, message.name)
                done = (message.name,)
            case msg.IssueToken():
                word = await membership.beside(
                    membership.issue,
                    message.kind,
                    message.ttl_s,
                    message.uses_max,
                    issuer=asker,
                    control_port=control_port,
                    enrol_port=enrol_port,
                )
                done = (word,)
            case msg.Revoke():
                was_one = await membership.beside(membership.revoke, message.kind, message.name)
                done = (message.name,) if was_one else ()
        return msg.Done(message.request_id, done=done)
    except MeshtrainError as error:
        return msg.Done(message.request_id, error=str(error))
    except OSError as error:
        told = f"the master can't write its list of members: {error.strerror}. Mend its disk"
        return msg.Done(message.request_id, error=told)
