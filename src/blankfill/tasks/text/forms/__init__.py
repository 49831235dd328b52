"""Tasks as texts: `forms.yaml`, which `tasks.text.text_form` reads."""
