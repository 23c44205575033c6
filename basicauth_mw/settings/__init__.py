"""The settings: ``model.py`` lists them, ``parsers.py`` reads their values, ``sources.py`` finds these."""

from .model import FIELDS, Overrides, SettingField, Settings, SettingsOverrides

__all__ = ["FIELDS", "Overrides", "SettingField", "Settings", "SettingsOverrides"]
