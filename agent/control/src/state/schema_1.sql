CREATE TABLE pair (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 64),
    peer BLOB CHECK (length(peer) = 32),
    source_uuid BLOB UNIQUE CHECK (length(source_uuid) = 16),
    source_name TEXT CHECK (octet_length(source_name) BETWEEN 1 AND 255),
    target_uuid BLOB UNIQUE CHECK (length(target_uuid) = 16),
    target_path BLOB UNIQUE CHECK (length(target_path) BETWEEN 1 AND 4095),
    target_file BLOB CHECK (length(target_file) = 16),
    direction TEXT NOT NULL CHECK (direction IN ('receive', 'send')),
    retention BLOB NOT NULL CHECK (length(retention) BETWEEN 1 AND 4095),
    created INTEGER NOT NULL,
    new_disk INTEGER NOT NULL CHECK (new_disk IN (0, 1)),
    signer BLOB CHECK (length(signer) = 32),
    points_since INTEGER,
    UNIQUE (peer, source_name),
    CHECK ((source_uuid IS NULL) <> (source_name IS NULL)),
    CHECK ((target_uuid IS NULL) <> (target_file IS NULL)),
    CHECK (target_file IS NULL OR target_path IS NOT NULL)
) STRICT;

CREATE TABLE protection_group (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 64),
    quiesce_ms INTEGER NOT NULL CHECK (quiesce_ms BETWEEN 100 AND 600000),
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE group_pair (
    group_id INTEGER NOT NULL REFERENCES protection_group (id),
    place INTEGER NOT NULL CHECK (place >= 0),
    pair_id INTEGER NOT NULL UNIQUE REFERENCES pair (id),
    PRIMARY KEY (group_id, place)
) STRICT, WITHOUT ROWID;

CREATE TABLE group_mark (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    group_id INTEGER NOT NULL REFERENCES protection_group (id),
    time INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('marked', 'decided', 'whole', 'given up'))
) STRICT;

CREATE TABLE marked_pair (
    mark INTEGER NOT NULL REFERENCES group_mark (number),
    pair_id INTEGER NOT NULL REFERENCES pair (id),
    delta BLOB CHECK (length(delta) = 32),
    point INTEGER CHECK (point >= 0),
    PRIMARY KEY (mark, pair_id),
    CHECK (point IS NULL OR delta IS NOT NULL)
) STRICT, WITHOUT ROWID;

CREATE TABLE job (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('replicate', 'final', 'verify', 'rollback', 'undo', 'commit', 'prune')),
    subject_kind TEXT NOT NULL CHECK (subject_kind IN ('pair', 'group')),
    subject TEXT NOT NULL CHECK (octet_length(subject) BETWEEN 1 AND 64),
    state TEXT NOT NULL CHECK (
        state IN ('queued', 'running', 'waiting', 'done', 'failed', 'cancelled', 'interrupted')
    ),
    phase TEXT NOT NULL CHECK (octet_length(phase) <= 64),
    durable INTEGER NOT NULL CHECK (durable >= 0),
    total INTEGER CHECK (total >= 0),
    queued INTEGER NOT NULL,
    started INTEGER,
    updated INTEGER NOT NULL,
    ended INTEGER,
    error TEXT CHECK (octet_length(error) <= 2048),
    CHECK ((ended IS NULL) = (state IN ('queued', 'running', 'waiting')))
) STRICT;

CREATE INDEX job_state ON job (state);
