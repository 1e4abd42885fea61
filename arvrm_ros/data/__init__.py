# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Shared data types; readers and writers of episodes and human clips."""
