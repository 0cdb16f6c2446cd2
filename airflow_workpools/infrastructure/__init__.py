# SPDX-License-Identifier: Apache-2.0
"""Kinds of infrastructure on which jobs run."""
