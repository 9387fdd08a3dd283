# `make` lists the targets. Each does its own set-up, into git-ignored folders.
.DEFAULT_GOAL := help
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help demo test suites slow lint docs

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: ## the story of a migration, on real backends (ARGS=--once ends after it)
	cargo build --release --locked
	python3 examples/demo/demo.py --gateway $(TARGET)/release/export-gateway $(ARGS)

test: ## everything: formatting, lints, unit tests, and the real binary between real backends
	$(MAKE) lint
	tests/backends/setup.sh
	tests/backends/redis.sh
	cargo test --locked

suites: ## the HTTP cases (tests/it/rfc) against nginx and haproxy, too, as tables (needs both: Debian packages)
	cargo test --locked --test it rfc:: -- --include-ignored --nocapture --test-threads 1

slow: ## 9,000 idle and slow clients beside a healthy one
	cargo build --release --locked
	python3 bench/slow_clients.py --gateway $(TARGET)/release/export-gateway

lint: ## rustfmt, clippy, rustdoc, and `check` on every TOML shipped
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet
	cargo run --locked --quiet -- check --config gateway.toml

docs: ## the crate's documentation, for reading
	cargo doc --locked --no-deps --open
