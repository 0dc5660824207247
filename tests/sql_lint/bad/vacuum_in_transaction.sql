-- not-in-transaction
BEGIN;
VACUUM orders;
COMMIT;
