# SPDX-License-Identifier: Apache-2.0
"""The fault suite: what breaks, who starts it again, and what must be true afterwards."""
