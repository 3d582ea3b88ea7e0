-- The schema as it is now: what the files in migrations/ add up to. Stores are made by
-- running those; this one is for people, and a test holds the two together.

-- What one value a store has.
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    -- Epochs are incarnation * 2^40 + a counter, and must fit 63 bits.
    incarnation INTEGER NOT NULL CHECK (incarnation BETWEEN 1 AND 8388607)
) STRICT;

-- Rows are numbered in the order they come, and refer to each other by number:
-- what is written together lies together, so a commit touches few pages.

CREATE TABLE sweeps (
    row INTEGER PRIMARY KEY,
    sweep_id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    submitted_wall_s REAL NOT NULL,
    cancelled INTEGER NOT NULL CHECK (cancelled IN (0, 1)),
    job_ids BLOB NOT NULL,
    recipe_hashes BLOB NOT NULL,
    reused BLOB NOT NULL,
    results BLOB NOT NULL,
    source TEXT NOT NULL
) STRICT;

CREATE TABLE jobs (
    row INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL UNIQUE,
    sweep INTEGER REFERENCES sweeps (row),
    kind TEXT NOT NULL CHECK (kind IN ('base', 'experiment')),
    -- The word "order" is SQL's own.
    place INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    -- Not IN (...): for that, SQLite would build a table of the values for each row.
    state TEXT NOT NULL CHECK (
        state = 'waiting' OR state = 'succeeded' OR state = 'failed' OR state = 'cancelled'
        OR state = 'assigned' OR state = 'running' OR state = 'collecting'
    ),
    generation INTEGER NOT NULL CHECK (generation >= 1),
    cancelling INTEGER NOT NULL CHECK (cancelling IN (0, 1)),
    retries_used INTEGER NOT NULL CHECK (retries_used >= 0),
    losses INTEGER NOT NULL CHECK (losses >= 0),
    gpu_memory_bytes INTEGER NOT NULL CHECK (gpu_memory_bytes >= 0),
    failure BLOB,
    metrics BLOB,
    submitted_wall_s REAL NOT NULL,
    ended_wall_s REAL,
    -- It ran out of main memory: from then on it has a node to itself.
    alone INTEGER NOT NULL DEFAULT 0 CHECK (alone IN (0, 1)),
    -- The last checkpoint, and the last one that the master holds.
    checkpoint TEXT,
    checkpoint_safe TEXT,
    -- What somebody asked for in place of its resources, after it was submitted.
    asked BLOB,
    CHECK (kind = 'experiment' OR sweep IS NULL),
    CHECK (
        ended_wall_s IS NOT NULL
        OR state = 'waiting' OR state = 'assigned' OR state = 'running' OR state = 'collecting'
    ),
    CHECK (state <> 'failed' OR failure IS NOT NULL)
) STRICT;

-- A job ends in exactly one terminal state per generation.
CREATE TRIGGER jobs_end_once BEFORE UPDATE OF state, generation ON jobs
WHEN new.generation < old.generation
    OR (
        new.generation = old.generation
        AND new.state <> old.state
        AND (old.state = 'succeeded' OR old.state = 'failed' OR old.state = 'cancelled')
    )
BEGIN
    SELECT raise(ABORT, 'a job ends once per generation, and generations only rise');
END;

-- Written once, apart from the rows that every step of a job rewrites.
CREATE TABLE job_specs (
    row INTEGER PRIMARY KEY REFERENCES jobs (row),
    spec BLOB NOT NULL
) STRICT;

CREATE TABLE attempts (
    -- No epoch is ever given twice; an attempt's id is its job's with its epoch.
    epoch INTEGER PRIMARY KEY CHECK (epoch >= 1),
    job INTEGER NOT NULL REFERENCES jobs (row),
    generation INTEGER NOT NULL CHECK (generation >= 1),
    placements BLOB NOT NULL,
    state TEXT NOT NULL CHECK (
        state = 'live' OR state = 'succeeded' OR state = 'failed' OR state = 'cancelled'
        OR state = 'lost' OR state = 'handed back'
    ),
    base_artifact TEXT,
    assigned_wall_s REAL NOT NULL,
    started_wall_s REAL,
    ended_wall_s REAL,
    failure BLOB,
    artifact_id TEXT,
    -- The checkpoint that it went on from.
    resumed_from TEXT,
    CHECK (state = 'live' OR ended_wall_s IS NOT NULL)
) STRICT;

CREATE INDEX attempts_of_job ON attempts (job);

CREATE UNIQUE INDEX attempts_one_live ON attempts (job) WHERE state = 'live';

-- A new lease of a job has a higher epoch than all before it.
CREATE TRIGGER attempts_epochs_rise BEFORE INSERT ON attempts
WHEN new.epoch <= (SELECT max(epoch) FROM attempts WHERE job = new.job)
BEGIN
    SELECT raise(ABORT, 'a new attempt of a job needs a higher epoch than those before it');
END;

-- How much of a log or of metrics is stored: bytes past it don't count.
CREATE TABLE streams (
    epoch INTEGER NOT NULL REFERENCES attempts (epoch),
    stream TEXT NOT NULL,
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    PRIMARY KEY (epoch, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE bases (
    recipe_hash TEXT PRIMARY KEY NOT NULL,
    spec BLOB NOT NULL,
    job INTEGER NOT NULL REFERENCES jobs (row),
    generation INTEGER NOT NULL CHECK (generation >= 1),
    state TEXT NOT NULL CHECK (
        state = 'needed' OR state = 'committed' OR state = 'failed' OR state = 'cancelled'
    ),
    artifact_id TEXT,
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    durable INTEGER NOT NULL CHECK (durable IN (0, 1)),
    node_id TEXT,
    trained_s REAL,
    committed_wall_s REAL,
    CHECK (state <> 'committed' OR artifact_id IS NOT NULL),
    CHECK (durable = 0 OR artifact_id IS NOT NULL)
) STRICT;

-- For one recipe and generation at most one artifact is ever committed.
CREATE TRIGGER bases_commit_once BEFORE UPDATE ON bases
WHEN new.generation < old.generation
    OR (
        new.generation = old.generation
        AND old.state = 'committed'
        AND (new.state <> 'committed' OR new.artifact_id IS NOT old.artifact_id)
    )
BEGIN
    SELECT raise(ABORT, 'a base is committed once per generation, and generations only rise');
END;

CREATE TABLE drained (
    node_id TEXT PRIMARY KEY NOT NULL,
    -- When what runs there is moved elsewhere (wall clock, seconds); NULL: it may end there.
    due_wall_s REAL
) STRICT, WITHOUT ROWID;

-- A GPU whose jobs fail by its fault; enough of them, and it is given to nobody.
CREATE TABLE gpu_faults (
    node_id TEXT NOT NULL,
    gpu INTEGER NOT NULL CHECK (gpu >= 0),
    faults INTEGER NOT NULL CHECK (faults >= 0),
    out_of_use INTEGER NOT NULL CHECK (out_of_use IN (0, 1)),
    PRIMARY KEY (node_id, gpu)
) STRICT, WITHOUT ROWID;

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

-- Bases that are not evicted: from one node, or (node_id empty) from any.
CREATE TABLE pins (
    recipe_hash TEXT NOT NULL REFERENCES bases (recipe_hash),
    node_id TEXT NOT NULL,
    PRIMARY KEY (recipe_hash, node_id)
) STRICT, WITHOUT ROWID;

-- What a sweep has used of the GPUs, and what it may use at most.
CREATE TABLE spending (
    sweep INTEGER PRIMARY KEY REFERENCES sweeps (row),
    gpu_s REAL NOT NULL CHECK (gpu_s BETWEEN 0 AND 1e300),
    money REAL NOT NULL CHECK (money BETWEEN 0 AND 1e300),
    gpu_hours_max REAL CHECK (gpu_hours_max BETWEEN 0 AND 1e300),
    money_max REAL CHECK (money_max BETWEEN 0 AND 1e300)
) STRICT;
