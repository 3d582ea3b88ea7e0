-- Data sets that were published under a name. A version is never changed, and never other bytes.
CREATE TABLE named_inputs (
    row INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version >= 1),
    artifact_id TEXT NOT NULL,
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    files_count INTEGER NOT NULL CHECK (files_count >= 0),
    published_by TEXT NOT NULL,
    published_wall_s REAL NOT NULL,
    UNIQUE (name, version),
    UNIQUE (name, artifact_id)
) STRICT;
