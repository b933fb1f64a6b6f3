# The only commands a newcomer needs.
.PHONY: help setup demo test failover lint bench docs clean

help:
	@echo "make demo   real rows through every language and back, with a SIGKILL in between"
	@echo "make test   all tests of all languages"
	@echo "make failover  five minutes of load from every language on a cluster whose nodes are killed all the time"
	@echo "make failover STORE=nats  thirty rounds of kills and pauses among three NATS peers and three nodes over them"
	@echo "make lint   formatters and linters"
	@echo "make bench  figures of the server's core and of the client on this machine, in a few minutes"
	@echo "make docs   API documentation of the Rust crates, in target/doc"
	@echo "make setup  what the others need (they run it themselves)"

setup:
	@dev/setup.sh

demo: setup
	@dev/demo.sh

test: setup
	@dev/test.sh

failover: setup
	@STORE=$(STORE) dev/failover.sh

lint:
	@dev/setup.sh lint
	@dev/lint.sh

bench: setup
	cargo bench -p hstream-server --bench store --bench subscription_window --bench stats --bench cluster
	cargo bench -p hstream-server --bench engines
	cargo bench -p hstreamdb --bench routing --bench append

docs:
	cargo doc --no-deps

clean:
	cargo clean
	rm -rf .setup
