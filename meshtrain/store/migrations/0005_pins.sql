-- Bases that are not evicted: from one node, or (node_id empty) from any.
CREATE TABLE pins (
    recipe_hash TEXT NOT NULL REFERENCES bases (recipe_hash),
    node_id TEXT NOT NULL,
    PRIMARY KEY (recipe_hash, node_id)
) STRICT, WITHOUT ROWID;
