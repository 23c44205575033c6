"""The settings: ``model.py`` lists them, ``parsers.py`` reads their values, ``sources.py`` finds these."""

from .model import FIELDS as FIELDS
from .model import Overrides as Overrides
from .model import SettingField as SettingField
from .model import Settings as Settings
from .model import SettingsOverrides as SettingsOverrides
