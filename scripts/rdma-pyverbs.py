# SPDX-License-Identifier: GPL-2.0-only
"""Runs in the VM: the tests of pyverbs for on-demand paging, as they are, as TAP."""
import sys
import unittest

from args_parser import parser


class Tap(unittest.TestResult):
    def say(self, test, good, more=""):
        name = test.id().rsplit(".", 1)[-1]
        print(f"{'ok' if good else 'not ok'} {self.testsRun} {name}{more}", flush=True)

    def addSuccess(self, test):
        self.say(test, True)

    def addSkip(self, test, reason):
        self.say(test, True, f" # SKIP {reason}")

    def addFailure(self, test, err):
        self.say(test, False, f" # {err[1]}".replace("\n", " "))

    addError = addFailure


# the first GID is not that of the IPv4 address
sys.argv = ["test_odp", "--dev", "rxe0", "--gid", "1"]
parser.parse_args()
suite = unittest.defaultTestLoader.loadTestsFromName("tests.test_odp")
print(f"1..{suite.countTestCases()}", flush=True)
suite.run(Tap())
