-- statement-fails
DROP INDEX CONCURRENTLY a_idx, b_idx;
