# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The subcommands of `arvrm`: one module each, with HELP, add_arguments(parser) and run(args) -> exit status."""
