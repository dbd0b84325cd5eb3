-- What each instance has leased of an account's limit in a window.
CREATE TABLE leases (
    user_id BIGINT NOT NULL,
    class_id INTEGER NOT NULL,
    window_kind SMALLINT NOT NULL CHECK (window_kind IN (0, 1)),
    window_start BIGINT NOT NULL,
    instance TEXT NOT NULL,
    requests BIGINT NOT NULL CHECK (requests >= 0),
    tokens BIGINT NOT NULL CHECK (tokens >= 0),
    cost_nanodollars BIGINT NOT NULL CHECK (cost_nanodollars >= 0),
    -- The last exchange and what it lent, to be answered again.
    exchange TEXT NOT NULL,
    granted_requests BIGINT NOT NULL,
    granted_tokens BIGINT NOT NULL,
    granted_cost_nanodollars BIGINT NOT NULL,
    -- The number of the last recall that was obeyed.
    obeyed BIGINT NOT NULL,
    PRIMARY KEY (user_id, class_id, window_kind, window_start, instance)
) WITHOUT ROWID;
-- Whole keys: a planner that takes this one for a single lease finds that lease, too.
CREATE INDEX leases_of_instance ON leases (instance, window_kind, window_start, user_id, class_id);

-- Who serves. `process` has the identity now; another process with it is a copy.
CREATE TABLE instances (
    id TEXT NOT NULL PRIMARY KEY,
    process TEXT NOT NULL,
    enrolled_at BIGINT NOT NULL,
    heartbeat_at BIGINT NOT NULL,
    written_off_at BIGINT
) WITHOUT ROWID;

-- The instances that an operator gave up, and what that freed.
CREATE TABLE write_offs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    instance TEXT NOT NULL,
    at BIGINT NOT NULL,
    operator TEXT,
    leases BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    cost_nanodollars BIGINT NOT NULL
);

ALTER TABLE journals ADD COLUMN instance TEXT;
ALTER TABLE journals ADD COLUMN closed_at BIGINT;

-- Why an operator corrected the books.
ALTER TABLE postings ADD COLUMN reason TEXT;

-- The sums of posting rows that were pruned.
CREATE TABLE usage_checkpoints (
    user_id BIGINT NOT NULL,
    class_id INTEGER NOT NULL,
    window_kind SMALLINT NOT NULL,
    window_start BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    cost_nanodollars BIGINT NOT NULL,
    PRIMARY KEY (user_id, class_id, window_kind, window_start)
) WITHOUT ROWID;

-- `changes` have another kind: 4 recall of a lease.
