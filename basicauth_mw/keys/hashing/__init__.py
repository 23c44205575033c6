"""How secrets are stored and compared.

There are two kinds of hash. A generated secret has 256 bits of entropy, so one BLAKE2b digest is enough
(``digest.py``). A password needs a deliberately slow hash: Argon2id, or bcrypt for imported keys
(``password.py``). ``formats.py`` recognizes and validates stored hashes of both kinds.

The cost of a refusal must not depend on the record, or it would reveal whether an ID exists. So a refusal
computes the same number of digests and comparisons whatever was found, and at most one password hash, of the
record or of a decoy.
"""

from .digest import Hashed as Hashed
from .digest import Hasher as Hasher
from .digest import hash_secret as hash_secret
from .digest import pepper_id as pepper_id
from .digest import salt_of as salt_of
from .digest import salts as salts
from .formats import MAX_ACTIVE_SECRETS as MAX_ACTIVE_SECRETS
from .formats import MAX_SECRETS as MAX_SECRETS
from .formats import check_hash as check_hash
from .formats import has_password_hash as has_password_hash
from .formats import is_password_hash as is_password_hash
from .formats import looks_hashed as looks_hashed
from .formats import unsupported_scheme as unsupported_scheme
from .password import ARGON2_LANES as ARGON2_LANES
from .password import ARGON2_MEMORY_KIB as ARGON2_MEMORY_KIB
from .password import ARGON2_TIME_COST as ARGON2_TIME_COST
from .password import BCRYPT_MAX_BYTES as BCRYPT_MAX_BYTES
from .password import dummy_password_hash as dummy_password_hash
from .password import hash_password as hash_password
from .password import verify_password as verify_password
