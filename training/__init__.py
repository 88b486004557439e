# SPDX-License-Identifier: Apache-2.0
"""Training of MeshPose: bakes the body, makes pictures, reads fits, trains, exports; reads the core only."""
