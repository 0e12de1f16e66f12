"""What somebody may put into, or change of, the tables of a ledger in SQLite, and what is said of it."""

from __future__ import annotations

from typing import Final

from otahsm.ledger.migrations import NEWEST

NO_TRIGGER: Final = "otahsm makes no triggers: it can change what is written"
DEVICE_INDEX: Final = "INDEX ix_intents_device ON intents (device_id, profile)"

# What a database administrator of SQLite may do, and what is said of it.
TAMPERED: Final = {
    "a trigger that removes certificates": (
        ["CREATE TRIGGER gone AFTER INSERT ON certificates BEGIN DELETE FROM certificates; END"],
        f"trigger gone on certificates: {NO_TRIGGER}",
    ),
    "a trigger that hides events": (
        ["CREATE TRIGGER Hide BEFORE INSERT ON events WHEN new.name = 'x' BEGIN SELECT RAISE(IGNORE); END"],
        f"trigger Hide on events: {NO_TRIGGER}",
    ),
    "a view in place of a table": (
        [
            "ALTER TABLE denied_clients RENAME TO hidden",
            "CREATE VIEW denied_clients AS SELECT * FROM hidden WHERE 0",
        ],
        "view denied_clients: otahsm makes no views: it can stand in for a table",
    ),
    "a table that is gone": (["DROP TABLE nodes"], "table nodes: is missing"),
    "a table in place of a function": (
        ["CREATE VIRTUAL TABLE json_each USING fts5(value)"],
        "table json_each: is virtual: a module answers for it",
    ),
    "an ordinary table in place of a function": (
        ["CREATE TABLE JSON_each (value)"],
        "table JSON_each: has the name of a function that otahsm calls",
    ),
    "a table that keeps rows from being deleted": (
        ["CREATE TABLE mine (id REFERENCES Unlogged (id))"],
        "table mine: refers to otahsm's",
    ),
    "one more column": (["ALTER TABLE events ADD COLUMN note TEXT"], "column events.note: is not otahsm's"),
    "a generated column": (
        ["ALTER TABLE events ADD COLUMN note TEXT AS (name)"],
        "column events.note: is not otahsm's",
    ),
    "a column of another name": (
        ["ALTER TABLE events RENAME COLUMN details TO detail"],
        "column events.details: is missing",
    ),
    "an index that is gone": (
        ["DROP INDEX ix_intents_serial"],
        "index ix_intents_serial on intents: is missing",
    ),
    "an index that is not unique": (
        ["DROP INDEX ix_intents_serial", "CREATE INDEX ix_intents_serial ON intents (serial)"],
        "index ix_intents_serial on intents: differs from ours",
    ),
    "an index over other columns": (
        ["DROP INDEX ix_events_time", "CREATE INDEX ix_events_time ON events (id)"],
        "index ix_events_time on events: differs from ours",
    ),
    "an index with other rows": (
        [
            "DROP INDEX ix_intents_key",
            "CREATE INDEX ix_intents_key ON intents (spki_sha256) WHERE void_reason IS NOT NULL",
        ],
        "index ix_intents_key on intents: differs from ours",
    ),
    "a condition with parentheses elsewhere": (
        [
            "DROP INDEX ix_intents_device",
            f"CREATE UNIQUE {DEVICE_INDEX} WHERE void_reason IS (NULL AND superseded_at) IS NULL",
        ],
        "index ix_intents_device on intents: differs from ours",
    ),
    "an index that does not tell letters apart": (
        [
            "DROP INDEX ix_batches_name",
            "CREATE UNIQUE INDEX ix_batches_name ON batches (name COLLATE NOCASE)",
        ],
        "index ix_batches_name on batches: differs from ours",
    ),
    "a unique index": (
        ["CREATE UNIQUE INDEX one ON events (happened_at)"],
        "index one on events: is unique and not otahsm's: it can keep rows out",
    ),
    "an index that fails for some rows": (
        ["CREATE INDEX fails ON events (json(CASE name WHEN 'access.denied' THEN '?' ELSE '1' END))"],
        "index fails on events: is not otahsm's, and computes what can fail",
    ),
    "an index with a condition that fails": (
        ["CREATE INDEX fails ON events (id) WHERE json(details) IS NOT NULL"],
        "index fails on events: is not otahsm's, and computes what can fail",
    ),
    "another version": (
        ["UPDATE alembic_version SET version_num = '9999'"],
        f"schema version: says 9999, but this otahsm needs {NEWEST}",
    ),
}
# Definitions that no ALTER TABLE can make: (table, text, its replacement).
REDEFINED: Final = {
    "another rule for rows": (
        ("intents", "(void_reason IS NULL) = (voided_at IS NULL) AND", "1 OR"),
        "constraint ck_intents_one_kind on intents: is missing: somebody removed or renamed it",
    ),
    "an insert that is ignored": (
        ("events", "name VARCHAR(64) NOT NULL", "name VARCHAR(64) NOT NULL ON CONFLICT IGNORE"),
        "table events: its definition has ON, and ours has not",
    ),
    "a check": (
        ("events", "occurrences BIGINT NOT NULL", "occurrences BIGINT NOT NULL CHECK (name <> 'x')"),
        "table events: its definition has CHECK, and ours has not",
    ),
    "another collation": (
        ("intents", "request_id VARCHAR(128)", "request_id VARCHAR(128) COLLATE nocase"),
        "table intents: its definition has COLLATE, and ours has not",
    ),
    "a type of quoted words": (
        ("events", "name VARCHAR(64) NOT NULL", 'name "VARCHAR(64) NOT" "NULL"'),
        'table events: its definition has "varchar(64) not", and ours has not',
    ),
    "a constraint in a comment": (
        ("events", "name VARCHAR(64) NOT NULL", "name VARCHAR(64) /* NOT NULL */"),
        "column events.name: its NOT NULL is False, and ours is True",
    ),
    "another type": (
        ("events", "occurrences BIGINT", "occurrences TEXT"),
        "column events.occurrences: its type is 'TEXT', and ours is 'BIGINT'",
    ),
    "another default": (
        ("intents", "DEFAULT '1'", "DEFAULT '2'"),
        "column intents.place: its default is '2', and ours is '1'",
    ),
    "a foreign key that deletes": (
        ("certificates", "REFERENCES intents (id)", "REFERENCES intents (id) ON DELETE CASCADE"),
        "foreign key of certificates.intent_id: is not otahsm's",
    ),
    "no foreign key": (
        ("certificates", "FOREIGN KEY(intent_id) REFERENCES intents (id)", "CHECK (1)"),
        "foreign key of certificates.intent_id: is missing",
    ),
    "ids that are used once": (
        ("unlogged", "CONSTRAINT pk_unlogged_0011 PRIMARY KEY (id)", "UNIQUE (id)"),
        "column unlogged.id: its primary key is 0, and ours is 1",
    ),
}  # fmt: skip
# What is not otahsm's, and what no statement of otahsm's can meet.
HARMLESS: Final = {
    "an index": (["CREATE INDEX mine ON events (client, name)"], ["index mine on events: is not otahsm's"]),
    "a table": (["CREATE TABLE mine (id)"], ["table mine: is not otahsm's"]),
    "statistics": (["ANALYZE"], []),
    "a table that was renamed and renamed back": (
        ["ALTER TABLE events RENAME TO gone", "ALTER TABLE gone RENAME TO events"],
        [],
    ),
}
