"""The errors that meshtrain raises on purpose.

    MeshtrainError
    ├── UserError               something a person wrote or asked for; exit code 2
    │   ├── JobFileError        a job file with one or more problems, each with its place
    │   ├── SettingsError       a settings file or flag
    │   ├── NotFoundError       a name that names nothing
    │   ├── MissingExtraError   an optional part that is not installed
    │   ├── LaunchError         a launch that can't be carried out as it is written
    │   ├── MembershipError     a membership that can't be given or ended as asked
    │   ├── TokenError          a join token that lets nobody in
    │   └── EnrolmentError      a host or a person that can't join the mesh
    ├── NotSignedError          a request whose signature is missing or doesn't count
    ├── RecipeMismatchError     the configuration parsed is not the one that was hashed
    ├── ProtocolError           a message that breaks the wire's rules
    │   └── BadMessageError     bytes that are no message, by what is wrong with them
    ├── MasterAwayError         no master answers
    ├── NetworkAwayError        a host's name or a way to it can't be found for now
    ├── RunnerError             the spawner of a node's jobs doesn't start
    ├── LocalMeshError          a process of a mesh on one host doesn't come up
    ├── LogbookError            the folder of logs can't be used
    ├── ResultsError            results that can't be written
    ├── StoreError              the job store can't be read or written
    │   ├── StoreFullError      its disk is full: what was saved may be committed later
    │   ├── StoreInUseError     another master has it
    │   ├── BackupError         a backup that can't be made, or put in place
    │   └── StoreRuleError      a change that the rules of its rows forbid
    └── ArtifactError           an artifact that can't be read, written or verified
        ├── CorruptChunkError   bytes whose digest is not the promised one
        ├── FetchError          no holder could deliver
        ├── DiskFullError       there is no room for it
        ├── UnknownArtifactError   it is not here
        └── ChunkNotHereError   it is coming, and this part of it is not here yet

Every message tells what happened, where, and what to do. Anything that is not
a MeshtrainError is a bug, and ends the process with its traceback; but one that
the request of one person meets at the master is told to that person and logged,
and ends nothing.
"""

from __future__ import annotations


class MeshtrainError(Exception):
    """The root of all expected failures; its message is fit to be shown as it is."""


class UserError(MeshtrainError):
    """Raised when what a person wrote or asked for can't be done."""


class SettingsError(UserError):
    """Raised when a settings file, an environment variable or a flag has a bad value."""


class NotFoundError(UserError):
    """Raised when a name names no job, sweep, node or base."""


class RecipeMismatchError(MeshtrainError):
    """Raised when a training process parsed another configuration than the one hashed."""


class ProtocolError(MeshtrainError):
    """Raised when bytes or a message break the wire's rules."""


class StoreError(MeshtrainError):
    """Raised when the job store can't be read or written."""


class ArtifactError(MeshtrainError):
    """Raised when an artifact can't be read, written or verified."""


class CorruptChunkError(ArtifactError):
    """Raised when a chunk's bytes don't have the digest that its manifest promises."""


class FetchError(ArtifactError):
    """Raised when no holder could deliver an artifact."""
