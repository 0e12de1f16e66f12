"""What an operator does with keys of a CA: making, inspecting, importing and destroying them."""

from otahsm.token.ceremony.importing import import_key
from otahsm.token.ceremony.intermediate import check_key, create_request, prove_possession
from otahsm.token.ceremony.key_pairs import (
    MAX_NAME,
    Made,
    create_checkpoint_key,
    create_root,
    destroy_key,
    inspect_key,
    key_types,
    throwaway_ca,
    valid_for,
)

__all__ = [
    "MAX_NAME",
    "Made",
    "check_key",
    "create_checkpoint_key",
    "create_request",
    "create_root",
    "destroy_key",
    "import_key",
    "inspect_key",
    "key_types",
    "prove_possession",
    "throwaway_ca",
    "valid_for",
]
