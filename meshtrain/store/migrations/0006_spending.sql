-- What somebody asked for in place of a job's resources, after it was submitted.
ALTER TABLE jobs ADD COLUMN asked BLOB;

-- What a sweep has used of the GPUs, and what it may use at most.
CREATE TABLE spending (
    sweep INTEGER PRIMARY KEY REFERENCES sweeps (row),
    gpu_s REAL NOT NULL CHECK (gpu_s BETWEEN 0 AND 1e300),
    money REAL NOT NULL CHECK (money BETWEEN 0 AND 1e300),
    gpu_hours_max REAL CHECK (gpu_hours_max BETWEEN 0 AND 1e300),
    money_max REAL CHECK (money_max BETWEEN 0 AND 1e300)
) STRICT;
