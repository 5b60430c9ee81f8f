# Managed by Golden Path: local changes are overwritten.
"""
What a site's pending migrations do that the release which serves meanwhile may not live with.

It runs under a site's own interpreter, in ``run_manage.py``'s process, and imports nothing of the engine.
"""


def pending():
    """
    What the pending migrations do that a release which does not know them may not live with: Django's own loader is
    asked, and no text. A list of ``[migration, what, hard]``; hard is false for what nobody can judge.
    """
    from django.db import DEFAULT_DB_ALIAS, connections
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    state = executor._create_project_state(with_applied_migrations=True)
    found, created = [], set()
    for migration, _ in plan:
        for operation in migration.operations:
            for what, hard in judged(operation, state, migration.app_label, created):
                found.append([f"{migration.app_label}.{migration.name}", what, hard])
            operation.state_forwards(migration.app_label, state)
    return found


def judged(operation, state, label, created):
    """
    What one operation does to the tables that the serving release uses: pairs of words and whether that is sure.

    state: Django's project state before it. label: its app. created: models that are new in this plan.
    """
    kind = type(operation).__name__
    model = str(
        getattr(operation, "model_name", getattr(operation, "name", getattr(operation, "old_name", "")))
    ).lower()
    if kind == "SeparateDatabaseAndState":
        for each in operation.database_operations:
            yield from judged(each, state, label, created)
        return
    if kind == "CreateModel":
        created.add((label, model))
    if kind in ("RunPython", "RunSQL"):
        yield kind, False
        return
    if (label, model) in created:
        return
    if kind in ("RemoveField", "RenameField"):
        yield f"{kind} {model}.{getattr(operation, 'old_name', None) or operation.name}", True
    elif kind == "DeleteModel":
        yield f"{kind} {model}", True
    elif kind == "RenameModel":
        yield f"{kind} {operation.old_name.lower()}", True
    elif kind == "AlterModelTable":
        yield f"{kind} {model}", True
    elif kind == "AddField" and refuses_old_rows(operation.field):
        yield f"AddField {model}.{operation.name}, NOT NULL without a default in the database", True
    elif kind == "AlterField":
        before = state.models[label, model].fields.get(operation.name)
        if why := narrower(before, operation.field):
            yield f"AlterField {model}.{operation.name}, {why}", True


def refuses_old_rows(field):
    """Whether a row that is written without a new column is refused."""
    from django.db.models import fields

    if field.null or field.many_to_many or getattr(field, "generated", False):
        return False
    # Before Django 5.0 there is no default in the database at all.
    return getattr(field, "db_default", fields.NOT_PROVIDED) is fields.NOT_PROVIDED


def narrower(before, after):
    """Why a column takes less than it did, or an empty string."""
    if before is None:
        return ""
    if before.null and not after.null:
        return "which becomes NOT NULL"
    if (after.max_length or 0) < (before.max_length or 0) and after.max_length:
        return "which becomes shorter"
    if before.get_internal_type() != after.get_internal_type():
        return f"from {before.get_internal_type()} to {after.get_internal_type()}"
    return ""
