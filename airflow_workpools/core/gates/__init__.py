# SPDX-License-Identifier: Apache-2.0
"""What each gate says of a task: whether it holds it, by which numbers, and what would let it pass.

A gate is only asked about a task that is at it or in front of it; see ``core.explain`` for the order.
"""
