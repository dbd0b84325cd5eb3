-- What is to be granted, so that this role can do with the tables all that the service does; some are only read.
SELECT format('GRANT %s ON %s TO %I', rights, string_agg(oid::regclass::text, ', ' ORDER BY relname), current_user)
    AS statement
FROM pg_class
CROSS JOIN LATERAL (SELECT CASE
    WHEN relname IN ('__diesel_schema_migrations', 'posting_windows', 'store_identity') THEN 'SELECT'
    ELSE 'SELECT, INSERT, UPDATE, DELETE'
END) AS needed (rights)
WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('__diesel_schema_migrations'))
    AND relname IN (
        '__diesel_schema_migrations', 'api_keys', 'change_counter', 'changes', 'classes', 'instances', 'journals',
        'leases', 'models', 'plan_limits', 'plans', 'posting_windows', 'postings', 'revoked_tokens', 'store_identity',
        'usage_checkpoints', 'usage_totals', 'users', 'write_offs'
    )
    AND EXISTS (
        SELECT FROM unnest(string_to_array(rights, ', ')) AS one (right_to)
        WHERE NOT has_table_privilege(pg_class.oid, right_to)
    )
GROUP BY rights
ORDER BY rights
