# SPDX-License-Identifier: Apache-2.0
"""What a Config is read from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]
"""A validated mapping out of the document, keys in kebab-case."""
