# The tools that .ci/run brings, where the machine has none of its own.
export PATH := $(PATH):$(CURDIR)/.servers/tools

.DEFAULT_GOAL := help
.PHONY: help demo test releases rehearsals soak crash-points strikes twins bench bench-catalog fuzz check-pages lint ci

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: ## see it work on a temporary server (arguments: make demo ARGS=...)
	@scripts/servers ensure
	@cargo run --release --locked --quiet -- demo $(ARGS)

test: ## run all tests on one release of PostgreSQL, and those that depend on the release on the others
	@scripts/servers ensure
	@status=0; scripts/in-memory scripts/test-releases --beside || status=1; \
		if cargo nextest --version >/dev/null 2>&1; then test="nextest run"; else test=test; fi; \
		scripts/in-memory cargo $$test --locked || status=1; exit $$status

releases: ## run what depends on the release on each of them (which: make releases RELEASES="14 18")
	@scripts/in-memory scripts/test-releases $(RELEASES)

rehearsals: ## rehearse every plan and fixture on each release, against what they claim (make rehearsals RELEASES="14 18")
	@scripts/in-memory scripts/test-releases --rehearsals $(RELEASES)

soak: ## random plans under random faults and traffic, for an hour (how long: make soak MINUTES=10)
	@scripts/servers ensure
	PGMORPH_SOAK_MINUTES=$(or $(MINUTES),60) cargo test --locked --test it -- --nocapture soak::

crash-points: ## let every fixture die at every statement, for hours (a share of the points: make crash-points POINTS=1/200)
	@scripts/servers ensure
	PGMORPH_CRASH_POINTS=$(or $(POINTS),all) cargo test --locked --test it -- --nocapture crash_points::whatever

strikes: ## strike running plans at random moments, for about half an hour (rounds of each kind: make strikes ROUNDS=50)
	@scripts/servers ensure
	PGMORPH_CRASH_ROUNDS=$(or $(ROUNDS),50) PGMORPH_HOLD_SECONDS=30 \
		cargo test --locked --test it -- --nocapture --test-threads 2 crash:: portfolio::

bench: ## fill a column beside a bare UPDATE, for about three minutes (arguments: make bench ARGS="--rows 5000000 --clients 4")
	@scripts/servers ensure
	@cargo bench --locked --bench backfill -- $(ARGS)

bench-catalog: ## snapshot, plan and verify with 100 to 20,000 tables, for a quarter of an hour (arguments: make bench-catalog ARGS="--tables 100,1000")
	@scripts/servers ensure
	@cargo bench --locked --bench catalog -- $(ARGS)

fuzz: ## feed everything that reads files with random bytes, a minute for each of seven (how long: make fuzz SECONDS=600)
	@scripts/fuzz $(or $(SECONDS),60)

check-pages: ## look at the pages of plans and reports with a browser: accessibility, and pictures in target/pages
	@scripts/servers ensure
	@scripts/check-pages

twins: ## change random tables and compare them with twins that plain ALTER TABLE changed (number of cases: make twins CASES=500)
	@scripts/servers ensure
	PGMORPH_TWIN_CASES=$(or $(CASES),500) \
		cargo test --locked --test it -- --nocapture twin::random_tables

lint: ## check format, lints, and what we depend on
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then \
		cargo deny --locked --config .deny.toml --log-level error check licenses bans sources; \
	else echo "cargo-deny is not installed; licences and sources are not checked"; fi

ci: ## everything that continuous integration runs
	.ci/run
