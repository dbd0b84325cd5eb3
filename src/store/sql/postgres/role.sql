-- A schema that a role may not look into is left out of its search path. Tables are changed by those who own them.
SELECT
    CASE WHEN current_schema() IS NULL THEN format(
        'GRANT USAGE ON SCHEMA %s TO %I',
        regexp_replace(current_setting('search_path'), '.*,\s*', ''),
        current_user
    ) END AS usage,
    coalesce(has_schema_privilege(current_schema(), 'CREATE'), FALSE) AND NOT EXISTS (
        SELECT FROM pg_class
        WHERE oid = to_regclass('__diesel_schema_migrations') AND NOT pg_has_role(relowner, 'USAGE')
    ) AS makes
