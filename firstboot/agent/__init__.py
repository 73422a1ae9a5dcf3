# SPDX-License-Identifier: Apache-2.0
"""The agent: follows the document, makes passes over the plan, and serves what it knows.

process.py    the process: rounds one after another, and the doors by which it is reached
rounds.py     one round: what is looked at, and which steps are taken
standing.py   what rounds, answers and the status share: which node it is, and how it stands
answers.py    what the APIs ask, and who answers it
account.py    the status document
rest.py       units that are stopped for a while
"""
