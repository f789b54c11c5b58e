"""What the import hook of conftest.py checks annotations with."""

import beartype

# Where a float is asked for an int will do, as PEP 484 has it.
check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
