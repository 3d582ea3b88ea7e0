-- A job that ran out of main memory has a node to itself from then on.
ALTER TABLE jobs ADD COLUMN alone INTEGER NOT NULL DEFAULT 0 CHECK (alone IN (0, 1));

-- The last checkpoint, and the last one that the master holds.
ALTER TABLE jobs ADD COLUMN checkpoint TEXT;

ALTER TABLE jobs ADD COLUMN checkpoint_safe TEXT;

-- The checkpoint that the attempt went on from.
ALTER TABLE attempts ADD COLUMN resumed_from TEXT;

-- A GPU whose jobs fail by its fault; enough of them, and it is given to nobody.
CREATE TABLE gpu_faults (
    node_id TEXT NOT NULL,
    gpu INTEGER NOT NULL CHECK (gpu >= 0),
    faults INTEGER NOT NULL CHECK (faults >= 0),
    out_of_use INTEGER NOT NULL CHECK (out_of_use IN (0, 1)),
    PRIMARY KEY (node_id, gpu)
) STRICT, WITHOUT ROWID;

-- It was never written: a dropped file that is met again is known by its sweep's id.
DROP TABLE inbox;
