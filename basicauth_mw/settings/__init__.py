"""The settings: ``model.py`` lists them, ``sources.py`` finds their values, ``parsers.py`` parses these."""

from .model import FIELDS, Overrides, SettingField, Settings, SettingsOverrides

__all__ = ["FIELDS", "Overrides", "SettingField", "Settings", "SettingsOverrides"]
