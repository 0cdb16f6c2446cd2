# SPDX-License-Identifier: Apache-2.0
"""HTTP on the API server: how workers elsewhere speak with the job store."""
