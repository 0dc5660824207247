-- What a server has before the first plan: roles belong to all its databases.
DO $$
BEGIN
    IF to_regrole('metrics_reader') IS NULL THEN
        CREATE ROLE metrics_reader NOLOGIN;
    END IF;
END $$;
