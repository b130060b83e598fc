# SPDX-License-Identifier: GPL-2.0-only
#
# The front door; `make help` says what there is.

MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
S := scripts

.PHONY: help setup run test test-distro test-arm64 matrix drivers compare mm-compare torture bench later-tests
.PHONY: demo-rdma shell kernel base check docs series series-check clean distclean deb deb-test

help:
	@$(S)/help

setup:
	@$(S)/setup

base: setup
	@$(S)/base

KERNEL_CONFIG ?= test
kernel: kernel-$(KERNEL_CONFIG)

kernel-%:
	@$(S)/setup $(filter distro,$*) $(if $(filter deb-%,$*),deb) $(if $(filter arm64-%,$*),arm64)
	@$(S)/build $*

run: setup
	@$(S)/run

test:
	@$(S)/setup matrix-test rdma
	@$(S)/test $(STAGES)

test-distro:
	@$(S)/setup distro
	@$(S)/test-distro $(STAGES)

test-arm64:
	@$(S)/setup arm64
	@$(S)/test-arm64 $(STAGES)

deb:
	@$(S)/setup deb
	@$(S)/deb

deb-test: deb
	@$(S)/deb-test

matrix:
	@$(S)/setup matrix
	@$(S)/matrix $(ROWS)

drivers:
	@$(S)/setup drivers
	@$(S)/drivers $(ROWS)

compare: setup
	@$(S)/compare

mm-compare:
	@$(S)/setup $(if $(OURS),,deb)
	@OURS=$(OURS) $(S)/mm-compare

later-tests: setup
	@$(S)/later-tests $(LATER)

torture: setup
	@$(S)/torture $(TORTURE_ARGS)

bench: setup
	@$(S)/bench $(BENCH_ARGS)

demo-rdma:
	@$(S)/setup rdma
	@$(S)/demo-rdma

shell: setup
	@$(S)/shell

check: setup
	@$(S)/check $(FILES)

docs:
	@$(S)/setup docs
	@$(S)/docs

series:
	@$(S)/setup series
	@$(S)/series

series-check:
	@$(S)/setup series
	@$(S)/series-check

clean:
	@$(S)/clean build

distclean:
	@$(S)/clean cache
