# SPDX-License-Identifier: Apache-2.0
"""The tests on virtual machines and their harness.

channel:   root commands inside a machine
console:   the serial console and what it must never show
machine:   one machine, from power-on to power cut
ready:     machines saved when Ready, and their copies
artefacts: what a failed test leaves behind
"""
