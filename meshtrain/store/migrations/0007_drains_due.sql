-- When what runs on a drained node is moved elsewhere (wall clock, seconds); NULL: it may end there.
ALTER TABLE drained ADD COLUMN due_wall_s REAL;
