-- Where results and bases go, or once went. The mark is the word in the archive's own file
-- that says whose archive it is.
CREATE TABLE archives (
    row INTEGER PRIMARY KEY,
    target TEXT NOT NULL UNIQUE,
    mark TEXT NOT NULL
) STRICT;

-- What goes there, in the order in which it came, and what has gone.
CREATE TABLE archived (
    row INTEGER PRIMARY KEY,
    archive INTEGER NOT NULL REFERENCES archives (row),
    -- The folder in the archive.
    place TEXT NOT NULL,
    artifact_id TEXT NOT NULL,
    -- The job of a result, or the recipe hash of a base.
    subject TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state = 'queued' OR state = 'done' OR state = 'lost'),
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    UNIQUE (archive, place)
) STRICT;

-- What has gone there is not sent again.
CREATE TRIGGER archived_once BEFORE UPDATE ON archived
WHEN old.state = 'done' AND (new.state <> 'done' OR new.artifact_id <> old.artifact_id)
BEGIN
    SELECT raise(ABORT, 'what is archived stays archived');
END;
