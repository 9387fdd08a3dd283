# `make` lists the targets. Each does its own set-up, into git-ignored folders.
.DEFAULT_GOAL := help
TARGET := $(or $(CARGO_TARGET_DIR),target)
ON_REDIS := --store redis --replicas 3 --idempotent

.PHONY: help demo test suites slow lint fuzz chaos chaos-short figures docs release deb deploy-test bench bench-check

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: ## the story of a migration, on real backends (ARGS=--once ends after it)
	cargo build --release --locked
	python3 examples/demo/demo.py --gateway $(TARGET)/release/export-gateway $(ARGS)

test: ## everything: formatting, lints, unit tests, and the real binary between real backends
	$(MAKE) lint
	tests/backends/setup.sh
	tests/backends/redis.sh
	tests/deploy/setup.sh
	tests/deploy/validators.py --quick
	cargo test --locked
	$(MAKE) chaos-short

chaos: ## 10,000 starts over every fault, 200 kill -9: one gateway on SQLite, then three on Redis (ARGS="--seed 2")
	tests/backends/setup.sh
	tests/backends/redis.sh
	cargo build --release --locked
	python3 tests/chaos/chaos.py --gateway $(TARGET)/release/export-gateway $(ARGS)
	python3 tests/chaos/chaos.py --gateway $(TARGET)/release/export-gateway $(ON_REDIS) $(ARGS)

chaos-short:
	cargo build --locked
	python3 tests/chaos/chaos.py --gateway $(TARGET)/debug/export-gateway --starts 150 --kills 4
	python3 tests/chaos/chaos.py --gateway $(TARGET)/debug/export-gateway --starts 200 --kills 6 $(ON_REDIS)

figures: ## what the documentation states: store faults, a rolling restart, a million records, writes beside an fsync
	tests/backends/setup.sh
	tests/backends/redis.sh
	cargo build --release --locked --bins --example store_bench
	python3 tests/chaos/store_faults.py --gateway $(TARGET)/release/export-gateway
	python3 tests/chaos/figures.py --gateway $(TARGET)/release/export-gateway
	$(TARGET)/release/examples/store_bench
	cargo test --locked --test it -- --nocapture an_open_circuit_adds of_a_thousand_starts

suites: ## the HTTP cases (tests/it/rfc) against nginx and haproxy, too, as tables (needs both: Debian packages)
	cargo test --locked --test it rfc:: -- --include-ignored --nocapture --test-threads 1

slow: ## 9,000 idle and slow clients beside a healthy one
	cargo build --release --locked
	python3 bench/slow_clients.py --gateway $(TARGET)/release/export-gateway

lint: ## rustfmt, clippy, rustdoc, dependencies (deny.toml), and `check` on every TOML shipped
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet
	tests/tools/deny.sh
	cargo run --locked --quiet -- check --config gateway.toml

fuzz: ## ten minutes for each fuzz target (MINUTES=10); needs a nightly toolchain and cargo-fuzz
	cd fuzz && for target in $$(cargo fuzz list); do \
		cargo +nightly fuzz run -s none $$target -- -max_total_time=$$(( $(or $(MINUTES),10) * 60 )) -rss_limit_mb=2048 || exit 1; \
	done

release: ## the binary for production: trained on real traffic (PGO) where the toolchain can, else plain; says which
	bench/release.sh $(ARGS)

bench: ## beside nginx, HAProxy, Envoy, Caddy and Pingora; at most 30 minutes (ARGS="S1 --peers nginx": one)
	@test -x $(TARGET)/release/export-gateway || $(MAKE) release
	python3 bench/run.py $(ARGS)

bench-check: ## instructions and allocations per request beside the committed figures (ARGS=--accept writes them down)
	python3 bench/check.py $(ARGS)

deb: ## the Debian package of what `make release` makes, into target/ (needs `cargo install cargo-deb`)
	$(MAKE) release
	deploy/debian/assets.sh $(TARGET)/release/export-gateway $(TARGET)/release/packaging
	cargo deb --no-build --output $(TARGET)

deploy-test: ## build and exercise all of deploy/: as root on Debian 12, half an hour (ARGS="--only image compose")
	python3 tests/deploy/deploy_test.py $(ARGS)

docs: ## the crate's documentation, for reading
	cargo doc --locked --no-deps --open
