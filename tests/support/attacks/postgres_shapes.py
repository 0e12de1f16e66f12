"""What somebody may put into, or change of, the tables of a ledger in PostgreSQL, and what is said of it."""

from __future__ import annotations

from typing import Final

from otahsm.ledger.migrations import NEWEST

NO_TRIGGER: Final = "otahsm makes no triggers: it can change what is written"
DEVICE_INDEX: Final = "INDEX ix_intents_device ON intents (device_id, profile)"
FUNCTION: Final = "CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
# What a database administrator may do, and what is said of it.
TAMPERED: Final = {
    "no rule for rows": (
        ["ALTER TABLE intents DROP CONSTRAINT ck_intents_one_kind"],
        "constraint ck_intents_one_kind on intents: is missing",
    ),
    "another rule for rows": (
        [
            "ALTER TABLE intents DROP CONSTRAINT ck_intents_one_kind",
            "ALTER TABLE intents ADD CONSTRAINT ck_intents_one_kind CHECK (true)",
        ],
        "constraint ck_intents_one_kind on intents: differs from ours: CHECK (true)",
    ),
    "a trigger that removes certificates": (
        [FUNCTION, "CREATE TRIGGER gone BEFORE INSERT ON certificates FOR EACH ROW EXECUTE FUNCTION evil()"],
        f"trigger gone on certificates: {NO_TRIGGER}",
    ),
    "a trigger that is disabled": (
        [
            FUNCTION,
            "CREATE TRIGGER gone BEFORE INSERT ON certificates EXECUTE FUNCTION evil()",
            "ALTER TABLE certificates DISABLE TRIGGER gone",
        ],
        f"trigger gone on certificates: {NO_TRIGGER}",
    ),
    "foreign keys that are off": (
        ["ALTER TABLE certificates DISABLE TRIGGER ALL"],
        "foreign key on certificates: is not enforced: its trigger is disabled",
    ),
    "an event trigger": (
        [
            "CREATE FUNCTION noticed() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$",
            "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION noticed()",
        ],
        "event trigger watch: otahsm makes none: it can change a migration",
    ),
    "a rule that hides events": (
        ["CREATE RULE hide AS ON INSERT TO events WHERE new.name = 'access.denied' DO INSTEAD NOTHING"],
        "rule hide on events: otahsm makes no rules: it can change a statement",
    ),
    "row-level security": (
        ["ALTER TABLE events FORCE ROW LEVEL SECURITY"],
        "table events: row-level security is on: it can hide rows",
    ),
    "a policy": (
        ["CREATE POLICY hide ON events USING (name <> 'access.denied')"],
        "policy hide on events: otahsm makes no policies: it can hide rows",
    ),
    "statistics over a function": (
        ["CREATE STATISTICS lies ON (upper(name)), (lower(name)) FROM events"],
        "statistics lies on events: can call functions when otahsm analyzes the table",
    ),
    "a function that fits better": (
        ["CREATE FUNCTION unnest(bytea[]) RETURNS SETOF bytea LANGUAGE sql AS 'SELECT NULL::bytea'"],
        "function public.unnest(bytea[]): can be called in place of the one of PostgreSQL",
    ),
    "a function of a domain": (
        [
            "CREATE DOMAIN serials AS bytea[]",
            "CREATE FUNCTION unnest(serials) RETURNS SETOF bytea LANGUAGE sql AS 'SELECT NULL::bytea'",
        ],
        "function public.unnest(public.serials): can be called in place of the one of PostgreSQL",
    ),
    "an aggregate that fits better": (
        ["CREATE AGGREGATE count(text) (SFUNC = textcat, STYPE = text)"],
        "function public.count(text): can be called in place of the one of PostgreSQL",
    ),
    "a function of an extension": (
        [
            "CREATE EXTENSION citext",
            "CREATE FUNCTION max(varchar) RETURNS varchar LANGUAGE sql AS 'SELECT NULL::varchar'",
            "ALTER EXTENSION citext ADD FUNCTION max(varchar)",
        ],
        "function public.max(character varying): can be called in place of the one of PostgreSQL",
    ),
    "an operator that fits better": (
        [
            "CREATE FUNCTION never(varchar, varchar) RETURNS bool LANGUAGE sql AS 'SELECT false'",
            "CREATE OPERATOR = (FUNCTION = never, LEFTARG = varchar, RIGHTARG = varchar)",
        ],
        "operator public.= (character varying, character varying): can be used in place of",
    ),
    "a cast": (
        [
            "CREATE FUNCTION lie(bytea) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'",
            "CREATE CAST (bytea AS text) WITH FUNCTION lie(bytea) AS IMPLICIT",
        ],
        "cast from bytea to text: is not that of PostgreSQL: it can change a value",
    ),
    "a cast to a type of somebody's": (
        ["CREATE TYPE pair AS (a text)", "CREATE CAST (text AS pair) WITH INOUT AS IMPLICIT"],
        "cast from text to public.pair: is not that of PostgreSQL: it can change a value",
    ),
    "an operator class": (
        [
            "CREATE OPERATOR CLASS odd DEFAULT FOR TYPE varchar USING btree AS OPERATOR 3 = (text, text)",
        ],
        "operator class public.odd: decides how values of types of PostgreSQL are compared",
    ),
    "a view in place of a table": (
        ["ALTER TABLE denied_clients RENAME TO hidden", "CREATE VIEW denied_clients AS SELECT * FROM hidden"],
        "rule _RETURN on denied_clients",
    ),
    "a table that is gone": (["DROP TABLE nodes"], "table nodes: is missing"),
    "a table that is partitioned": (
        [
            "DROP TABLE nodes",
            "CREATE TABLE nodes (level smallint, number bigint, hash bytea) PARTITION BY LIST (level)",
        ],
        "table nodes: is a partitioned table",
    ),
    "a table that a crash empties": (["ALTER TABLE nodes SET UNLOGGED"], "table nodes: is unlogged"),
    "rows of another table": (
        ["CREATE TABLE more () INHERITS (denied_clients)"],
        "table denied_clients: inherits from a table, or a table from it",
    ),
    "one more column": (["ALTER TABLE events ADD COLUMN note text"], "column events.note: is not otahsm's"),
    "a column of another name": (
        ["ALTER TABLE events RENAME COLUMN details TO detail"],
        "column events.details: is missing",
    ),
    "another type": (
        ["ALTER TABLE events ALTER COLUMN occurrences TYPE integer"],
        "column events.occurrences: its type is 'integer', and ours is 'bigint'",
    ),
    "a domain": (
        ["CREATE DOMAIN bytea AS pg_catalog.bytea", "ALTER TABLE nodes ALTER COLUMN hash TYPE public.bytea"],
        "column nodes.hash: its type is 'public.bytea', and ours is 'bytea'",
    ),
    "another collation": (
        ['ALTER TABLE events ALTER COLUMN details TYPE text COLLATE "POSIX"'],
        "column events.details: its COLLATE is 'another', and ours is 'as usual'",
    ),
    "NULLs": (
        ["ALTER TABLE events ALTER COLUMN details DROP NOT NULL"],
        "column events.details: its NOT NULL is False, and ours is True",
    ),
    "a default": (
        ["ALTER TABLE intents ALTER COLUMN void_reason SET DEFAULT 'no'"],
        "column intents.void_reason: its default is 'no', and ours is None",
    ),
    "another sequence": (
        ["CREATE SEQUENCE other", "ALTER TABLE intents ALTER COLUMN id SET DEFAULT nextval('other')"],
        "column intents.id: its default is \"nextval('public.other'::regclass)\"",
    ),
    "a sequence that begins again": (
        ["ALTER SEQUENCE intents_id_seq CYCLE"],
        "column intents.id: has no sequence, or not one that counts up from 1 by 1",
    ),
    "a column that makes its own values": (
        [
            "ALTER TABLE unlogged ALTER COLUMN id DROP DEFAULT",
            "ALTER TABLE unlogged ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY",
        ],
        "column unlogged.id: its GENERATED is 'a', and ours is ''",
    ),
    "a check": (
        ["ALTER TABLE events ADD CONSTRAINT no CHECK (name <> 'access.denied')"],
        "constraint no on events: is not otahsm's: CHECK",
    ),
    "no primary key": (
        ["ALTER TABLE nodes DROP CONSTRAINT pk_nodes"],
        "primary key of nodes (level, number): is missing",
    ),
    "no foreign key": (
        ["ALTER TABLE certificates DROP CONSTRAINT fk_certificates_intent_id"],
        "foreign key of certificates (intent_id): is missing",
    ),
    "a foreign key that deletes": (
        [
            "ALTER TABLE certificates DROP CONSTRAINT fk_certificates_intent_id",
            "ALTER TABLE certificates ADD FOREIGN KEY (intent_id) REFERENCES intents ON DELETE CASCADE",
        ],
        "constraint certificates_intent_id_fkey on certificates: differs from ours",
    ),
    "a table that keeps rows from being deleted": (
        ["CREATE TABLE mine (id bigint REFERENCES unlogged (id))"],
        "constraint mine_id_fkey on mine: is not otahsm's, and refers to unlogged: FOREIGN KEY",
    ),
    "an index that is gone": (
        ["DROP INDEX ix_intents_serial"],
        "index ix_intents_serial on intents: is missing",
    ),
    "an index that is not valid": (
        ["UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_intents_serial'::regclass"],
        "index ix_intents_serial on intents: is not valid: rows may be missing from it",
    ),
    "an index that is not unique": (
        ["DROP INDEX ix_intents_serial", "CREATE INDEX ix_intents_serial ON intents (serial)"],
        "index ix_intents_serial on intents: differs from ours",
    ),
    "an index with other rows": (
        [
            "DROP INDEX ix_intents_device",
            f"CREATE UNIQUE {DEVICE_INDEX} WHERE void_reason IS NULL OR superseded_at IS NULL",
        ],
        "index ix_intents_device on intents: differs from ours",
    ),
    "an index in another order": (
        ["DROP INDEX ix_events_time", "CREATE INDEX ix_events_time ON events (happened_at DESC)"],
        "index ix_events_time on events: differs from ours",
    ),
    "an index with NULLs that are the same": (
        ["CREATE UNIQUE INDEX one ON events (happened_at) NULLS NOT DISTINCT"],
        "index one on events: is not otahsm's, and can keep rows out",
    ),
    "an index that calls a function": (
        [
            "CREATE FUNCTION quiet(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT NULL::text'",
            "CREATE INDEX calls ON events (quiet(name))",
        ],
        "index calls on events: is not otahsm's, and computes what can fail",
    ),
    "another version": (
        ["INSERT INTO alembic_version VALUES ('9999')"],
        f"schema version: says {NEWEST}, 9999, but this otahsm needs {NEWEST}",
    ),
}  # fmt: skip


# What is not otahsm's, and what no statement of otahsm's can meet.
HARMLESS: Final = {
    "an index": (["CREATE INDEX mine ON events (client, name)"], ["index mine on events: is not otahsm's"]),
    "a table": (["CREATE TABLE mine (id int)"], ["table mine: is not otahsm's"]),
    "a view": (["CREATE VIEW mine AS SELECT * FROM events"], ["view mine: is not otahsm's"]),
    "a function": (["CREATE FUNCTION mine(int) RETURNS int LANGUAGE sql AS 'SELECT 1'"], []),
    "things in another schema": (
        [
            "CREATE SCHEMA other",
            "CREATE TABLE other.intents (id int)",
            "CREATE FUNCTION other.unnest(bytea[]) RETURNS SETOF bytea LANGUAGE sql AS 'SELECT NULL::bytea'",
        ],
        [],
    ),
    "statistics": (["CREATE STATISTICS mine ON client, name FROM events", "ANALYZE"], []),
    "extensions": (
        [
            f"CREATE EXTENSION {name}"
            for name in (
                "pg_stat_statements",
                "pgcrypto",
                "citext",
                "hstore",
                "ltree",
                "intarray",
                "btree_gist",
            )
        ],
        [],
    ),
}
