-- Times are microseconds since 1970 (UTC) by this machine's clock; windows start at a second; money is nano-dollars.
-- Window kinds: 0 day, 1 month. Forward only: a mistake is corrected by the next migration.

-- Journals belong to the store of this id and are replayed into no other.
CREATE TABLE store_identity (
    only_row BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (only_row),
    id TEXT NOT NULL
);
INSERT INTO store_identity (id) VALUES (lower(printf(
    '%s-%s-4%s-%s%s-%s', hex(randomblob(4)), hex(randomblob(2)), substr(hex(randomblob(2)), 2),
    substr('89ab', 1 + abs(random()) % 4, 1), substr(hex(randomblob(2)), 2), hex(randomblob(6))
)));

CREATE TABLE classes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 128)
);

CREATE TABLE plans (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 128),
    open BOOLEAN NOT NULL DEFAULT FALSE,
    requests_per_minute BIGINT,
    concurrent_streams BIGINT
);

CREATE TABLE plan_limits (
    plan_id INTEGER NOT NULL REFERENCES plans (id),
    class_id INTEGER NOT NULL REFERENCES classes (id),
    window_kind SMALLINT NOT NULL CHECK (window_kind IN (0, 1)),
    requests BIGINT CHECK (requests >= 0),
    tokens BIGINT CHECK (tokens >= 0),
    cost_nanodollars BIGINT CHECK (cost_nanodollars >= 0),
    PRIMARY KEY (plan_id, class_id)
) WITHOUT ROWID;

-- Users are disabled, never deleted; `version` is the number of the user's last change.
CREATE TABLE users (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 128),
    role TEXT NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'admin')),
    plan_id INTEGER NOT NULL REFERENCES plans (id),
    disabled BOOLEAN NOT NULL DEFAULT FALSE,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER))
);

CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    sha256 BLOB NOT NULL UNIQUE CHECK (length(sha256) = 32),
    user_id BIGINT NOT NULL REFERENCES users (id),
    created_at BIGINT NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    expires_at BIGINT,
    last_used_at BIGINT,
    revoked_at BIGINT
);
CREATE INDEX api_keys_of_user ON api_keys (user_id);

CREATE TABLE revoked_tokens (
    sha256 BLOB NOT NULL PRIMARY KEY CHECK (length(sha256) = 32),
    expires_at BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX revoked_tokens_by_end ON revoked_tokens (expires_at);

-- A removed model keeps its row, so that postings can name it for ever. Id 0 stands for any passed-through model.
CREATE TABLE models (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 128),
    class_id INTEGER NOT NULL REFERENCES classes (id),
    provider TEXT NOT NULL,
    upstream_model TEXT NOT NULL,
    input_price BIGINT NOT NULL CHECK (input_price >= 0),
    output_price BIGINT NOT NULL CHECK (output_price >= 0),
    context BIGINT,
    max_output BIGINT,
    fallbacks TEXT NOT NULL DEFAULT '[]',
    origin TEXT NOT NULL CHECK (origin IN ('table', 'config')),
    removed BOOLEAN NOT NULL DEFAULT FALSE
);

-- The books. Totals are sums of postings; both are written with the cursors in one transaction.
CREATE TABLE usage_totals (
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

CREATE TABLE postings (
    id TEXT NOT NULL PRIMARY KEY,
    user_id BIGINT NOT NULL,
    class_id INTEGER NOT NULL,
    model_id BIGINT NOT NULL,
    opened_at BIGINT NOT NULL,
    settled_at BIGINT NOT NULL,
    outcome SMALLINT NOT NULL,
    estimated BOOLEAN NOT NULL,
    requests BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    cost_nanodollars BIGINT NOT NULL
) WITHOUT ROWID;

-- How far each journal has been applied; the last batch began at `started`.
CREATE TABLE journals (
    id TEXT NOT NULL PRIMARY KEY,
    started BIGINT NOT NULL,
    applied BIGINT NOT NULL CHECK (applied >= started),
    updated_at BIGINT NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER))
) WITHOUT ROWID;

-- What `ledger verify` adds up: each posting in both of its windows.
CREATE VIEW posting_windows AS
SELECT user_id, class_id, 0 AS window_kind, opened_at / 86400000000 * 86400 AS window_start,
    requests, prompt_tokens, completion_tokens, cost_nanodollars
FROM postings
UNION ALL
SELECT user_id, class_id, 1, unixepoch(opened_at / 1000000, 'unixepoch', 'start of month'),
    requests, prompt_tokens, completion_tokens, cost_nanodollars
FROM postings;

-- Kinds: 0 user, 1 key, 2 token, 3 catalog.
CREATE TABLE change_counter (
    only_row BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (only_row),
    seq BIGINT NOT NULL
);
INSERT INTO change_counter (seq) VALUES (0);

CREATE TABLE changes (
    seq BIGINT NOT NULL PRIMARY KEY,
    kind SMALLINT NOT NULL,
    subject TEXT NOT NULL,
    until BIGINT,
    at BIGINT NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER))
) WITHOUT ROWID;
CREATE INDEX changes_by_time ON changes (at);

INSERT INTO classes (name) VALUES ('basic'), ('premium');
INSERT INTO plans (name, open) VALUES ('default', FALSE), ('unlimited', TRUE);
INSERT INTO plan_limits (plan_id, class_id, window_kind, requests)
SELECT plans.id, classes.id, 0, 1000 FROM plans, classes WHERE plans.name = 'default' AND classes.name = 'basic';
