# SPDX-License-Identifier: Apache-2.0
"""Databases as released versions made them: tests/data/schemas holds their tables and rows."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ci.store.database import Database

SCHEMAS = Path(__file__).parents[1] / "data" / "schemas"


def thaw(database: Database, version: int) -> None:
    """Fill an empty database as that version left it: two rows in every table."""
    kind = database.engine.dialect.name
    script = (SCHEMAS / f"v{version}.{kind}.sql").read_text()
    with database.write() as tx:
        for statement in script.split(";\n"):
            if statement.strip():
                tx.exec_driver_sql(statement.replace("%", "%%") if kind != "sqlite" else statement)


def contents(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Every row of our tables, by table, in the order of their first column."""
    found = {}
    with database.read() as tx:
        tables = sa.MetaData()
        tables.reflect(tx, only=lambda name, _: name.startswith("ci_"))
        for name, table in tables.tables.items():
            rows = tx.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings()
            found[name] = [dict(row) for row in rows]
    return found


def shape(database: Database) -> dict[str, Any]:
    """What a database says of its own tables: columns, keys, indexes; nothing of their order."""
    inspector = sa.inspect(database.engine)
    found: dict[str, Any] = {}
    for table in inspector.get_table_names():
        if table.startswith("ci_"):
            found[table] = {
                "columns": {
                    c["name"]: (str(c["type"]), c["nullable"], c["default"])
                    for c in inspector.get_columns(table)
                },
                "key": inspector.get_pk_constraint(table)["constrained_columns"],
                "unique": sorted(
                    tuple(c["column_names"]) for c in inspector.get_unique_constraints(table)
                ),
                "foreign": sorted(
                    (tuple(c["constrained_columns"]), c["referred_table"])
                    for c in inspector.get_foreign_keys(table)
                ),
                "indexes": {
                    i["name"]: tuple(i["column_names"])
                    for i in inspector.get_indexes(table)
                    if not i.get("duplicates_constraint")
                },
            }
    return found
