# SPDX-License-Identifier: Apache-2.0
"""Training of MeshPose: bakes the body, makes pictures, reads fits, trains, exports.  Reads the core, is never read by it."""
