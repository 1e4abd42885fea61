# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From action chunks to safe joint commands: kinematics, limits, blending, backends."""
