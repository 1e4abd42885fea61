# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Training loops: image encoder, pretraining on human clips, fine-tuning on robot episodes."""
